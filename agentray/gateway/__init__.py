"""The HTTP side: `build_app` makes the ASGI app, `deployment` runs it on Ray Serve."""
