"""The scripted conversations, by subject. Each is a function that talks through a `Conversation`."""

import importlib
import pkgutil

CONVERSATIONS = {}


def conversation(script):
    """Registers a conversation under its function's name."""
    if script.__name__ in CONVERSATIONS:
        raise ValueError(f"two conversations are called {script.__name__}")
    CONVERSATIONS[script.__name__] = script
    return script


def load():
    """Imports every subject and returns all conversations by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return CONVERSATIONS
