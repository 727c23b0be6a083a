"""What pages for staff share: who gets in (`access`), what every page needs (`pages`), how they look (`static`)."""
