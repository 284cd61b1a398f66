from django.contrib.auth.models import User
from django.test import TestCase, override_settings

from .admin_pages import every_address, fill


class TimeZoneTests(TestCase):
    def see_every_page(self):
        """Return the pages, as the browser gets them."""
        self.client.force_login(User.objects.create_superuser("root"))
        fill()
        pages = []
        for address in every_address():
            with self.subTest(address):
                page = self.client.get(address)
                self.assertEqual(page.status_code, 200)
                pages.append(page.content.decode())
        return "".join(pages)

    @override_settings(USE_TZ=False, TIME_ZONE="Asia/Karachi")
    def test_every_page_is_there_without_use_tz(self):
        self.assertIn("in the time zone PKT.", self.see_every_page())

    @override_settings(USE_TZ=True, TIME_ZONE="Asia/Karachi")
    def test_every_page_is_there_with_use_tz(self):
        self.assertIn("in the time zone PKT.", self.see_every_page())
