"""Galleries shared beside roles: directly with subscriptions and tenants, and with the community."""
