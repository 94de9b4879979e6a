#!/usr/bin/env bash
# Checks Grafana dashboards against the types of npm's @grafana/schema with tsc: the dashboard as a whole, and each panel's options
# and custom field settings as those of its kind. Needs `make tools`.
#   scripts/typecheck.sh                     every dashboard of dashboards/grafana
#   scripts/typecheck.sh FILE.json …         these
set -euo pipefail
cd "$(dirname "$0")/.."
npm_home=.deps/npm
[ -d "$npm_home/node_modules/@grafana/schema" ] || { echo "typecheck: @grafana/schema is missing; \`make tools\` gets it" >&2; exit 2; }
[ $# -gt 0 ] || set -- dashboards/grafana/*.json
work=$(mktemp -d "$npm_home/check.XXXXXX")
trap 'rm -rf "$work"' EXIT
cat > "$work/written.ts" <<'TS'
// What Grafana's Prometheus plugin reads beside the schema's keys of an annotation (packages/grafana-prometheus/src/annotations.ts).
interface OfPrometheus { expr?: string; step?: string; titleFormat?: string; textFormat?: string; tagKeys?: string; useValueForTime?: boolean }
type Keys<T> = { [K in keyof T]: Written<T[K]> };
// A type as JSON writes it: a string stands for the enum's member that has it as its value.
export type Written<T> = T extends string ? `${T}` : T extends (infer Item)[] ? Written<Item>[]
  : T extends { enable: boolean; iconColor: string; name: string } ? Keys<T> & OfPrometheus : T extends object ? Keys<T> : T;
TS
cat > "$work/spell.cjs" <<'JS'
const [file] = process.argv.slice(2);
const text = require('fs').readFileSync(file, 'utf8');
const kinds = { stat: 'Stat', gauge: 'Gauge', bargauge: 'BarGauge', timeseries: 'TimeSeries', heatmap: 'Heatmap', 'state-timeline': 'StateTimeline' };
console.log(`import type { Dashboard } from '@grafana/schema'; import type { Written } from './written'; export const dashboard: Written<Dashboard> = ${text};`);
for (const [kind, name] of Object.entries(kinds)) {
  console.log(`import type * as ${name} from '@grafana/schema/dist/esm/raw/composable/${kind.replace('-', '')}/panelcfg/x/${name}PanelCfg_types.gen';`);
}
for (const panel of JSON.parse(text).panels.filter((panel) => panel.type !== 'row')) {
  const kind = kinds[panel.type];
  if (!kind) throw new Error(`${file}: panel "${panel.title}": no types are known here for the kind ${panel.type}`);
  console.log(`/* ${panel.title.replaceAll('*', '')} */ export const options${panel.id}: Partial<Written<${kind}.Options>> = ${JSON.stringify(panel.options)};`);
  const custom = panel.fieldConfig.defaults.custom;
  if (custom) console.log(`/* ${panel.title.replaceAll('*', '')} */ export const custom${panel.id}: Written<${kind}.FieldConfig> = ${JSON.stringify(custom)};`);
}
JS
for file in "$@"; do
  node "$work/spell.cjs" "$file" > "$work/$(basename "$file" .json).ts"
done
node "$npm_home/node_modules/typescript/bin/tsc" --noEmit --strict --skipLibCheck --moduleResolution bundler --module esnext --target esnext "$work"/*.ts
