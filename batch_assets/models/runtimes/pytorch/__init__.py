"""What is torch's alone: its file formats, how they are vetted and read, its devices, and how a module becomes a file."""
