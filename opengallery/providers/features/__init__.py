"""`Microsoft.Features`: preview features, and the registration of resource providers."""
