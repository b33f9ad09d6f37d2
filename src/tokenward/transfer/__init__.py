"""From lab to language model: the study that trains."""
