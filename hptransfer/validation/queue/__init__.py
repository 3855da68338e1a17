"""Runs handed out once each: trials in a storage, leases, worker processes."""
