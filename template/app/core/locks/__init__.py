"""Who may run what: one backend, one file. See `app.core.scheduling.ledger` for what they grant."""
