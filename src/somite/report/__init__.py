"""What people look at: pictures, pages and their one style."""
