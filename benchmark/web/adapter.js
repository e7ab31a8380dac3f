// The name of a graphics adapter, from what WebGPU tells of it.
export const named = (info) =>
    [info?.vendor, info?.architecture, info?.device, info?.description].filter(Boolean).join(" ");
