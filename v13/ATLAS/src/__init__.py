"""The API (Python) and the client (TypeScript) live side by side here, as in the monorepo."""
