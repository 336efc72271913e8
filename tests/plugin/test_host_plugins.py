"""Loading plugins: by name, by entry point, each once, and none that the host misunderstands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy
import pytest

from v13.ATLAS.src.main import create_app
from v13.ATLAS.src.plugins.errors import ConfigurationError
from v13.ATLAS.src.plugins.manager import Plugins
from v13.ATLAS.src.plugins.testing import SECRET
from v13.ATLAS.src.settings import HostSettings

hookimpl = pluggy.HookimplMarker("atlas")

PLUGIN = """
import pluggy
hookimpl = pluggy.HookimplMarker("atlas")

@hookimpl
def atlas_ready(host):
    return ["{name} speaks"]
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install modules as a distribution does: on the path, with entry points in its metadata."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(source: str = PLUGIN, /, module: str = "sample", **entry_points: str) -> None:
        (tmp_path / f"{module}.py").write_text(source.replace("{name}", module))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        points = "".join(f"{name} = {target}\n" for name, target in entry_points.items())
        (info / "entry_points.txt").write_text(f"[atlas.plugins]\n{points}")

    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]


def says(plugins: Plugins) -> list[str]:
    return [
        reason for ready in plugins.implementations("atlas_ready") for reason in ready(host=None)
    ]


def test_a_plugin_is_loaded_by_the_name_of_its_module(install: Install) -> None:
    install(module="sample_by_module")
    plugins = Plugins()
    plugins.load("sample_by_module")
    assert plugins.names() == ["sample_by_module"]
    assert says(plugins) == ["sample_by_module speaks"]


def test_a_plugin_is_loaded_by_the_name_of_its_entry_point(install: Install) -> None:
    install(module="sample_behind", atlas_sample="sample_behind")
    plugins = Plugins()
    plugins.load("atlas_sample")
    assert plugins.names() == ["atlas_sample"]
    assert says(plugins) == ["sample_behind speaks"]


def test_a_host_without_a_plugin_list_loads_what_is_installed(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(module="sample_b", zz_second="sample_b")
    install(module="sample_a", aa_first="sample_a")
    # Only what this test installed: the project's own entry point is another test's subject.
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    settings = HostSettings.model_validate({"jwt_secret": SECRET, "data_dir": tmp_path})
    assert create_app(settings).state.plugins.names() == ["host", "aa_first", "zz_second"]


def test_a_host_with_a_plugin_list_loads_just_that(install: Install, tmp_path: Path) -> None:
    install(module="sample_c", third="sample_c")
    install(module="sample_d", fourth="sample_d")
    settings = HostSettings.model_validate(
        {"jwt_secret": SECRET, "data_dir": tmp_path, "plugins": "sample_d"}
    )
    assert create_app(settings).state.plugins.names() == ["host", "sample_d"]
    assert create_app(settings, ["third"]).state.plugins.names() == ["host", "third"]
    assert create_app(settings, []).state.plugins.names() == ["host"]


@pytest.mark.parametrize("order", [("sample_e", "fifth"), ("fifth", "sample_e")])
def test_a_module_known_by_two_names_is_loaded_once(
    install: Install, order: tuple[str, str]
) -> None:
    install(module="sample_e", fifth="sample_e")
    plugins = Plugins()
    for name in order:
        plugins.load(name)
    assert plugins.names() == [order[0]]
    assert says(plugins) == ["sample_e speaks"]


def test_an_unknown_hook_is_refused_and_the_known_ones_are_named(install: Install) -> None:
    install(PLUGIN.replace("atlas_ready(host)", "atlas_raedy(host)"), module="sample_typo")
    plugins = Plugins()
    with pytest.raises(ConfigurationError, match=r"sample_typo.*atlas_raedy.*atlas_ready") as error:
        plugins.load("sample_typo")
    assert "\n" not in str(error.value)
    assert plugins.names() == []
    plugins.register(Speaking())
    assert says(plugins) == ["an object speaks"], "one refused plugin spoils no other"


def test_an_unknown_argument_is_refused(install: Install) -> None:
    install(PLUGIN.replace("ready(host)", "ready(host, mood)"), module="sample_argument")
    plugins = Plugins()
    with pytest.raises(ConfigurationError, match=r"sample_argument.*mood"):
        plugins.load("sample_argument")
    assert plugins.names() == []


def test_a_plugin_marked_for_another_project_is_refused(install: Install) -> None:
    install(PLUGIN.replace('"atlas"', '"atlass"'), module="sample_marker")
    plugins = Plugins()
    with pytest.raises(ConfigurationError, match=r"sample_marker implements no hook"):
        plugins.load("sample_marker")
    assert plugins.names() == []


@pytest.mark.parametrize("name", ["no_such_plugin", "no.such.plugin", "v13.no_such_plugin"])
def test_a_missing_plugin_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"plugin {name} cannot be imported"):
        Plugins().load(name)


def test_a_plugin_whose_own_import_is_missing_says_which(install: Install) -> None:
    install("import a_library_that_is_not_there\n", module="sample_import")
    with pytest.raises(ConfigurationError, match=r"sample_import.*a_library_that_is_not_there"):
        Plugins().load("sample_import")


def test_an_error_in_a_plugins_own_code_is_not_hidden(install: Install) -> None:
    install("raise LookupError('of its own')\n", module="sample_error")
    with pytest.raises(LookupError, match="of its own"):
        Plugins().load("sample_error")


class Speaking:
    @hookimpl
    def atlas_ready(self) -> list[str]:
        return ["an object speaks"]


def test_two_plugins_cannot_have_one_name() -> None:
    plugins = Plugins()
    plugins.register(Speaking(), "speaking")
    with pytest.raises(ConfigurationError, match="two plugins are called speaking"):
        plugins.register(Speaking(), "speaking")


def test_a_plugin_that_cannot_be_told_apart_is_refused() -> None:
    @dataclass
    class Unhashable:
        @hookimpl
        def atlas_ready(self) -> list[str]:
            return []

    with pytest.raises(ConfigurationError, match="hashable"):
        Plugins().register(Unhashable())


def test_implementations_come_in_the_order_of_loading() -> None:
    class Second:
        @hookimpl(tryfirst=True)
        def atlas_ready(self) -> list[str]:
            return ["the second speaks"]

    class Silent:
        @hookimpl
        def atlas_stop(self) -> None: ...

    plugins = Plugins()
    for plugin in (Speaking(), Silent(), Second()):
        plugins.register(plugin)
    assert says(plugins) == ["an object speaks", "the second speaks"]


def test_an_implementation_that_returns_none_gives_none() -> None:
    class Nothing:
        @hookimpl
        def atlas_ready(self) -> Any:
            return None

    plugins = Plugins()
    plugins.register(Nothing())
    assert [ready(host=None) for ready in plugins.implementations("atlas_ready")] == [None]
