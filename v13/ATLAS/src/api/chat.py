"""Where chat is mounted: the routers that plugins offer. No route is defined here.

The prototype's WebSocket lived in this module at the path that the plugin serves now. ``router``
stays, empty, for whoever collects the routers of this package by name.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from v13.ATLAS.src.plugins.hookspecs import Host
from v13.ATLAS.src.plugins.manager import Plugins

router = APIRouter()


def mount(app: FastAPI, plugins: Plugins, host: Host) -> None:
    """Include every router of every plugin's ``atlas_routes``, in the order of loading."""
    for routes in plugins.implementations("atlas_routes"):
        for plugin_router in routes(host=host) or ():
            app.include_router(plugin_router)
