"""What a gallery is made of on disk and in memory."""
