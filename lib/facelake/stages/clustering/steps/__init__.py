"""The steps of full clustering: each module has the tasks of one step and the function that runs it."""
