"""From lab to language model: the study of methods that share an optimum."""
