"""ATLAS, the application of the monorepo that the chat plugs into."""
