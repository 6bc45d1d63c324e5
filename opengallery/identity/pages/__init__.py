"""The pages on which people sign in: plain HTML and CSS, no script, nothing from elsewhere."""
