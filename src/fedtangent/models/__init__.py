"""Networks: functions of the input shape, the number of outputs and a generator that draws the first weights."""
