"""What leaves a search: pictures, documents and files that need nothing of this project."""
