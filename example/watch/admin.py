"""Certificates in the admin: to look at, since only tasks write them."""

from django.contrib import admin
from django.http import HttpRequest

from .models import Certificate


@admin.register(Certificate)
class CertificateAdmin(admin.ModelAdmin):
    list_display = ("subject", "key", "not_after", "days_left", "checked_at")
    list_filter = ("key",)
    search_fields = ("subject", "issuer", "fingerprint")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(
        self, request: HttpRequest, obj: Certificate | None = None
    ) -> bool:
        return False
