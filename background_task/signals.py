"""The signals of a task's life: upstream's seven.

=================  =====================  ======================
signal             sender                 arguments
=================  =====================  ======================
task_created       DBTaskRunner           task
task_started       Task
task_error         the exception's class  task
task_rescheduled   Task                   task
task_successful    Task                   task_id, completed_task
task_failed        Task                   task_id, completed_task
task_finished      Task
=================  =====================  ======================
"""

import logging
from typing import Any

from django.db.models import signals as model_signals
from django.dispatch import Signal

logger = logging.getLogger(__name__)

task_created = Signal()
task_started = Signal()
task_error = Signal()
task_rescheduled = Signal()
task_successful = Signal()
task_failed = Signal()
task_finished = Signal()


def broadcast(signal: Signal, sender: Any, **named: Any) -> None:
    """Send `signal`; log what a receiver raises, since it must change no outcome."""
    for receiver, answer in signal.send_robust(sender=sender, **named):
        if isinstance(answer, Exception):
            logger.error("Signal receiver %r failed", receiver, exc_info=answer)


def silence_model_signals() -> None:
    """Disconnect every receiver of the models' signals in this process.

    They are the user's code, which must not run here; the statements are the same.
    """
    for signal in vars(model_signals).values():
        if isinstance(signal, model_signals.ModelSignal):
            with signal.lock:
                signal.receivers.clear()
                signal.sender_receivers_cache.clear()
