"""HTTP Range reads of images, a URL a store; a process of its own, one a region."""
