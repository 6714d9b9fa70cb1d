"""The plugins that come with the gateway; each can be deleted and the core still runs."""
