"""What may be changed of a task, and what is refused."""

import json
from typing import TYPE_CHECKING, Any

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from background_task.managers import params_text
from background_task.models import Task

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Task]
else:  # Django's own class takes no parameters
    ModelForm = forms.ModelForm


class TaskForm(ModelForm):
    """Changes a task, or makes one that can run."""

    class Meta:
        help_texts = {
            "task_name": _(
                "As a tasks.py of the project has it, such as shop.tasks.send_receipt. "
                "A name that is in none of them is never run."
            ),
            "task_params": _(
                "JSON: a list of the positional arguments and an object of the others, "
                'such as [[7], {"copies": 2}].'
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "run_at" in self.fields:
            # A try may fail and move it after the form was opened: what was not touched
            # must not be written back. Who has no page to post says no such value.
            was_shown = f"{self['run_at'].html_initial_name}_0" in self.data
            self.fields["run_at"].show_hidden_initial = was_shown or not self.is_bound
        field: Any = self.fields.get("repeat")
        seconds = self.instance.repeat
        if field is not None and seconds not in dict(Task.REPEAT_CHOICES):
            said = gettext("every %d s") if seconds > 0 else gettext("%d s: never")
            field.choices = [*field.choices, (seconds, said % seconds)]

    def clean_task_params(self) -> str:
        """Refuse what could not be run; leave what is not touched to the letter."""
        text: str = self.cleaned_data["task_params"]
        if "task_params" not in self.changed_data and self.instance.pk:
            return text
        try:
            args, kwargs = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            args = kwargs = None
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            text = gettext(
                'This must be a list and an object in JSON, such as [[7], {"copies": 2}'
                "] or [[], {}]."
            )
            raise forms.ValidationError(text)
        return params_text(args, kwargs)

    def _get_validation_exclusions(self) -> set[str]:
        """Let a `repeat` stay that is none of the choices: a call may give any."""
        exclude: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return exclude if "repeat" in self.changed_data else exclude | {"repeat"}
