"""The admin's pages need nothing inline and nothing from elsewhere."""

from django.urls import reverse

from background_task.models import Attempt, CompletedTask, Runner, Task

from .tools import BrowserTestCase, wait_until


class AdminTests(BrowserTestCase):
    def test_lists_open_without_a_word_on_the_console(self):
        user = self.user()
        for model in (Task, CompletedTask, Attempt, Runner):
            with self.subTest(model.__name__):
                name = model._meta.model_name
                address = reverse(f"admin:background_task_{name}_changelist")
                self.open_as(user, address)

                self.assertIn("Select", self.page.text("h1"))

    def test_what_is_inline_is_refused_and_told(self):
        self.open_as(self.user(), reverse("admin:index"))
        self.page.run("""
            const style = document.createElement("style");
            style.textContent = "body { color: red }";
            document.head.append(style);
            const image = new Image();
            image.src = "http://elsewhere.invalid/1.png";
        """)

        def told():
            return "\n".join(self.page.problems())

        wait_until(lambda: "style" in told(), what="the style is refused")
        wait_until(lambda: "elsewhere" in told(), what="the image is refused")
        self.page.forgive("style|elsewhere")
