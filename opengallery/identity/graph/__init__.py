"""The Microsoft Graph subset: the directory over HTTP, as `az ad` and the SDKs ask for it."""
