"""The objective: small parts (links, rewards, advantages, terms) and the Recipe that names them."""
