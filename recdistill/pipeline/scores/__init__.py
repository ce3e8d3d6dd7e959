"""The score store: training lists with the scores of the teacher."""
