// Draws a dashboard's JSON with data of a Prometheus, by Grafana's own components: enough to look at queries, units,
// thresholds and legends. It is no Grafana: nothing can be changed, and only charts and numbers are known.
//
//   dist/index.html#board=overview&prometheus=http://127.0.0.1:9090&from=UNIX&to=UNIX&model=.*
import {
  createTheme, dateTime, type DataFrame, FieldColorModeId, FieldType, getDisplayProcessor, reduceField, ThemeContext,
  toDataFrame,
} from '@grafana/data';
import { BigValue, BigValueColorMode, BigValueGraphMode, GlobalStyles, PanelChrome, TimeSeries } from '@grafana/ui';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

import overview from '../dashboards/overview.json';
import quality from '../dashboards/quality.json';
import serving from '../dashboards/serving.json';
import streaming from '../dashboards/streaming.json';
import training from '../dashboards/training.json';

const BOARDS: Record<string, any> = { overview, quality, training, streaming, serving };
const UNIT = 38; // pixels of one row of the grid
const GAP = 8;
const wanted = new URLSearchParams(location.hash.slice(1));
const name = wanted.get('board') ?? 'overview';
const prometheus = wanted.get('prometheus') ?? 'http://127.0.0.1:9090';
const to = Number(wanted.get('to') ?? Date.now() / 1000);
const from = Number(wanted.get('from') ?? to - 1800);
const step = Math.max(2, Math.round((to - from) / 300));
const theme = createTheme({ colors: { mode: 'dark' }, typography: { fontFamily: 'Helvetica, Arial, sans-serif' } });
const range = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now-30m', to: 'now' } };

// As Grafana fills its variables in.
const filled = (expr: string) =>
  expr
    .replaceAll('$__rate_interval', `${Math.max(8, 4 * step)}s`)
    .replaceAll('$model', wanted.get('model') ?? '.*');

const titled = (legend: string, labels: Record<string, string>) =>
  legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');

async function ask(panel: any): Promise<DataFrame[]> {
  const answers = await Promise.all(
    panel.targets.map(async (target: any) => {
      const query = new URLSearchParams({ query: filled(target.expr), start: `${from}`, end: `${to}`, step: `${step}` });
      const body = await (await fetch(`${prometheus}/api/v1/query_range?${query}`)).json();
      if (body.status !== 'success') {
        throw new Error(body.error);
      }
      return body.data.result.map((row: any) =>
        toDataFrame({
          fields: [
            { name: 'time', type: FieldType.time, values: row.values.map(([at]: [number]) => at * 1000) },
            {
              name: 'value',
              type: FieldType.number,
              values: row.values.map(([, value]: [number, string]) => (value === 'NaN' ? null : Number(value))),
              config: { displayNameFromDS: titled(target.legendFormat, row.metric) },
            },
          ],
        })
      );
    })
  );
  const frames = answers.flat();
  const numbers = frames.map((frame) => frame.fields[1]);
  const values = numbers.flatMap((field) => field.values).filter(Number.isFinite);
  const { min = Math.min(...values), max = Math.max(...values) } = panel.fieldConfig.defaults;
  const color = { mode: panel.type === 'stat' ? FieldColorModeId.Thresholds : FieldColorModeId.PaletteClassic };
  numbers.forEach((field, seriesIndex) => {
    field.config = { color, ...panel.fieldConfig.defaults, ...field.config };
    field.state = { seriesIndex, range: { min, max, delta: max - min } };
    field.display = getDisplayProcessor({ field, theme });
  });
  return frames;
}

function Drawn({ panel, width, height }: { panel: any; width: number; height: number }) {
  const [frames, setFrames] = useState<DataFrame[]>();
  const [error, setError] = useState('');
  useEffect(() => {
    ask(panel).then(setFrames, (reason) => setError(`${reason}`));
  }, []);
  return (
    <PanelChrome title={panel.title} description={panel.description} width={width} height={height} statusMessage={error}>
      {(inner, high) => {
        if (error || !frames) {
          return error ? <span data-error={error}>{error}</span> : <span data-waiting="" />;
        }
        if (!frames.length) {
          return <span data-empty={panel.title}>No data</span>;
        }
        if (panel.type === 'timeseries') {
          return (
            <TimeSeries
              frames={frames} width={inner} height={high} timeRange={range as any} timeZone="utc"
              legend={{ ...panel.options.legend, calcs: [] }}
            />
          );
        }
        const field = frames[0].fields[1];
        const last = reduceField({ field, reducers: ['lastNotNull'] }).lastNotNull;
        return (
          <BigValue
            value={field.display!(last)} width={inner} height={high} theme={theme}
            colorMode={BigValueColorMode.Background} graphMode={BigValueGraphMode.Area}
            sparkline={{ x: frames[0].fields[0], y: field }}
          />
        );
      }}
    </PanelChrome>
  );
}

function Board() {
  const board = BOARDS[name];
  const width = document.documentElement.clientWidth - 32; // its scroll bar included: the page always has one
  const column = width / 24;
  const end = Math.max(...board.panels.map((panel: any) => panel.gridPos.y + panel.gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <h1 style={{ fontSize: 18 }}>{board.title}</h1>
      <nav>
        {Object.keys(BOARDS).map((other) => {
          const hash = new URLSearchParams(wanted);
          hash.set('board', other);
          return <a key={other} href={`#${hash}`} onClick={() => setTimeout(() => location.reload())}>{BOARDS[other].title}</a>;
        })}
      </nav>
      <div className="board" style={{ height: end * UNIT }}>
        {board.panels.map((panel: any) => {
          const { x, y, w, h } = panel.gridPos;
          const size = { width: w * column - GAP, height: h * UNIT - GAP };
          return (
            <div key={panel.id} className="cell" style={{ left: x * column, top: y * UNIT, ...size }}>
              {panel.type === 'row' ? <h2 style={{ fontSize: 14, lineHeight: '30px' }}>{panel.title}</h2> : <Drawn panel={panel} {...size} />}
            </div>
          );
        })}
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')!).render(<Board />);
