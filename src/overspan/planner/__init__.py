"""Pure: layouts, why some cannot run, what each needs and will give."""
