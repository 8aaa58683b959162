-- Places of components, { site =, layer =, head =, neuron =, pos =, dest =, src = }, and groups of them that are changed together.
local pb = require "patchbay"

local places = {}

local PLACE = { "site", "layer", "pos", "head", "neuron", "dest", "src" }
local KNOWN = { "site", "layer", "pos", "head", "neuron", "dest", "src", "name", "value", "change", "se", "token", "dest_token", "src_token", "recovered" }

-- places.groups(list, name) -> groups of places, each checked; a place by itself is a group of one.
function places.groups(list, name)
  if type(list) ~= "table" or #list == 0 then pb.fail("%s needs a list of groups, each a list of { site =, layer =, head =, pos = }", name) end
  local groups = {}
  for i, group in ipairs(list) do
    if type(group) ~= "table" then pb.fail("%s: group %d must be a list of places { site =, layer =, head =, pos = }, got %s", name, i, tostring(group)) end
    groups[i] = group.site and { name = group.name, group } or group
    for k, place in ipairs(groups[i]) do
      pb.options(place, KNOWN, ("%s: group %d, place %d"):format(name, i, k))
      if not place.site then pb.fail("%s: group %d, place %d has no site (\"z\" for a head, \"mlp_out\" for an MLP)", name, i, k) end
    end
  end
  return groups
end

-- The patches of places { site =, layer =, head =, pos = } with the pair's numbers for named positions, and what to put there.
function places.patches(set, i, list, action)
  local patches = {}
  for k, place in ipairs(list) do
    local patch = {}
    for _, key in ipairs(PLACE) do patch[key] = place[key] end
    for _, key in ipairs { "pos", "dest", "src" } do
      if type(patch[key]) == "string" and patch[key] ~= "all" then patch[key] = set:position(patch[key], i) end
    end
    for key, value in pairs(action) do patch[key] = value end
    patches[k] = patch
  end
  return patches
end

return places
