from django.apps import apps
from django.contrib import admin
from django.urls import path

# Only the benchmark of the pages installs the admin.
is_site = apps.is_installed("django.contrib.admin")
urlpatterns = [path("admin/", admin.site.urls)] if is_site else []
