"""Who the hospital's members of staff are and what each of them may do."""
