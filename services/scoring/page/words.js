// How readings are put into words and colours, once for the picture, the cards and the chart.

const TONES = new Set(["positive", "neutral", "negative"]);
const DIRECTIONS = { up: "up", down: "down", left: "left", right: "right", center: "ahead" };

export const percent = (share) => `${Math.round(100 * share)} %`;

export const title = (word) => word.charAt(0).toUpperCase() + word.slice(1);

/** A class's place in the style sheet's colours; classes that are not the paper's are counted through. */
export const tone = (name, index) => (TONES.has(name) ? `tone-${name}` : `tone-${index % 8}`);

export const direction = (orientation) => `looks ${DIRECTIONS[orientation] ?? orientation}`;

export const maskWords = (face) =>
  face.masked ? `masked ${percent(face.masked_probability)}` : `no mask ${percent(1 - face.masked_probability)}`;

/** One sentence for a screen reader. */
export function sentence(faces) {
  if (faces.length === 0) return "No face in the picture.";
  const each = faces.map((face) => {
    const name = faces.length > 1 ? `Face ${face.track + 1}: ` : "One face: ";
    const probability = Math.round(100 * face.probabilities[face.expression]);
    return `${name}${face.expression} ${probability} percent, ${face.masked ? "masked" : "no mask"}, ${direction(face.orientation)}.`;
  });
  return each.join(" ");
}
