"""New-style configs of DeiT."""
