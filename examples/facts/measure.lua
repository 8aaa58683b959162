-- What a "facts" model can do: the table of its README, for a model that is there. (visible.lua has the README's other section.)
--     patchbay run examples/facts/measure.lua model=facts-free
local pb, accuracy = require "patchbay", require "accuracy"

local p = pb.params { model = "facts", tasks = "facts" } -- tasks: the model whose task files are asked; facts-free has those of facts
local text = accuracy.text(accuracy.all(pb.load(p.model), pb.load(p.tasks).folder))
pb.write("accuracy.txt", text)
print(text)
