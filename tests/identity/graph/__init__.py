"""The Microsoft Graph subset."""
