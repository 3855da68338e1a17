"""Subcommands that train proxies, or judge trained ones."""
