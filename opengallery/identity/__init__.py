"""Identity: the tenant, its subscriptions and principals, and the tokens that prove who calls."""
