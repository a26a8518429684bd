-- What a stranger's Markdown may do. A link with another scheme stays as its text; no element brings attributes such as onclick or style;
-- a picture is asked for from nowhere, but for those that the PDF's own making put into its folder.

local SCHEMES = { http = true, https = true, mailto = true }

local function harmless(target)
  -- Browsers drop control characters and spaces within a scheme before they read it.
  local scheme = target:gsub("[%c%s]", ""):match("^([^/?#]-):")
  return scheme == nil or SCHEMES[scheme:lower()] == true
end

local function bare(element)
  if element.attributes then
    element.attributes = {}
  end
  return element
end

local function link(element)
  return harmless(element.target) and bare(element) or element.content
end

local function image(element)
  local ours = FORMAT == "typst" and element.src:match("^figure%-%d+%-%d+%.svg$") and io.open(element.src)
  if not ours then
    return element.caption
  end
  ours:close()
  return element
end

return { { Block = bare, Inline = bare, Link = link, Image = image } }
