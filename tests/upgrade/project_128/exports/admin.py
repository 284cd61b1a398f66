from django.contrib import admin

from background_task.admin import TaskAdmin, dec_priority, inc_priority
from background_task.models import Task

from .models import Export


class OurTaskAdmin(TaskAdmin):
    list_display = ["verbose_name", "queue", *TaskAdmin.list_display]
    list_filter = ["queue"]
    actions = [inc_priority, dec_priority, "run_now"]

    def run_now(self, request, queryset):
        from django.utils import timezone

        queryset.update(run_at=timezone.now())


admin.site.unregister(Task)
admin.site.register(Task, OurTaskAdmin)
admin.site.register(Export)
