"""timm's training transform on whole batches of decoded thumbnails: the same distribution, drawn together."""
