"""Microsoft.ManagedIdentity: identities that stand for themselves, and are assigned to machines."""
