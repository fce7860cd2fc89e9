"""What a gallery in Milvus is made of."""
