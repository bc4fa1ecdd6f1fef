"""New-style configs of Swin transformers."""
