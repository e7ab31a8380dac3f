"""The stages that train a model before it is exported: prune, cluster, QAT, distillation."""
