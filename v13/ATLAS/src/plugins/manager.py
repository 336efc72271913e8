"""Loading plugins: by name, by entry point, each once, and none that the host does not understand.

What a hook means is in ``hookspecs.py``; when hooks are called is decided in ``main.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import pluggy

from v13.ATLAS.src.plugins import hookspecs
from v13.ATLAS.src.plugins.errors import ConfigurationError
from v13.ATLAS.src.plugins.hookspecs import ENTRY_POINT_GROUP, PROJECT


@dataclass(frozen=True, slots=True)
class OneImplementation:
    """One plugin's implementation of a hook. Calling it calls only that plugin."""

    plugin: str
    _caller: pluggy.HookCaller

    def __call__(self, **arguments: Any) -> Any:
        results = self._caller(**arguments)
        return results[0] if results else None  # pluggy drops a None


class Plugins:
    """The plugins of one host. Every refusal is a ConfigurationError that names the plugin."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)

    @property
    def hook(self) -> pluggy.HookRelay:
        return self._manager.hook

    def names(self) -> list[str]:
        """The loaded plugins in the order of loading."""
        return [name for name, _ in self._manager.list_name_plugin()]

    def register(self, plugin: object, name: str | None = None) -> None:
        """Take ``plugin``, a module or an object; nothing happens when it is loaded already.

        Refuses a plugin that implements an unknown hook, asks for an unknown argument, or
        implements nothing at all.
        """
        if any(plugin is loaded for _, loaded in self._manager.list_name_plugin()):
            return
        name = name or self._manager.get_canonical_name(plugin)
        if not isinstance(plugin, Hashable):
            raise ConfigurationError(f"plugin {name} must be hashable; plugins are kept in sets")
        try:
            registered = self._manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            if self._manager.is_registered(plugin):  # pluggy before 1.7 takes it and then raises
                self._manager.unregister(plugin)
            raise ConfigurationError(f"plugin {name}: {_one_line(error)}") from error
        except ValueError:
            raise ConfigurationError(f"two plugins are called {name}; rename one") from None
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(plugin)
            raise ConfigurationError(
                f"plugin {name}: {_one_line(error)}; known are {', '.join(self.known_hooks())}"
            ) from error
        if registered is None or not self._manager.get_hookcallers(plugin):
            self._manager.unregister(plugin)
            raise ConfigurationError(
                f"plugin {name} implements no hook; mark its functions with "
                f'pluggy.HookimplMarker("{PROJECT}")'
            )

    def load(self, name: str) -> None:
        """Load the entry point called ``name`` of the group, or else the module ``name``."""
        for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
            self.register(_imported(name, point.load), name)
            return
        self.register(_imported(name, lambda: importlib.import_module(name)), name)

    def load_entry_points(self) -> None:
        """Load what is installed under the group ``atlas.plugins``, in the order of names."""
        for name in sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)}):
            self.load(name)

    def implementations(self, hook: str) -> Iterator[OneImplementation]:
        """Each plugin's implementation of ``hook`` in the order of loading, to call one by one."""
        everyone = self._manager.list_name_plugin()
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        implementing = [implementation.plugin for implementation in caller.get_hookimpls()]
        for name, plugin in everyone:
            if any(plugin is other for other in implementing):
                others = [other for _, other in everyone if other is not plugin]
                yield OneImplementation(name, self._manager.subset_hook_caller(hook, others))

    def known_hooks(self) -> list[str]:
        """The names of all hooks, sorted."""
        return sorted(name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_"))


def _imported(name: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except ImportError as error:
        raise ConfigurationError(f"plugin {name} cannot be imported: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
