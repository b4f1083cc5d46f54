"""How it is told: run folder, tables, figures, TensorBoard, verdicts. The only room that writes files."""
