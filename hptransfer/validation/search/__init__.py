"""Which runs to do: Optuna studies, queues and leases."""
