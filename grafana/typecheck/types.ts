// What a dashboard of ours may hold, by Grafana's schema: options and field settings by the type of the panel, and
// enumerations by their values, as JSON has them.
import type {DataQuery} from '@grafana/schema';
import type {Dashboard, FieldConfig, Panel, RowPanel} from '@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type {Options as StatOptions} from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type {
  FieldConfig as TimeSeriesFieldConfig,
  Options as TimeSeriesOptions,
} from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';

type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? {[Key in keyof T]: Plain<T[Key]>}
      : T;

// The query of the Prometheus data source is not in the schema.
interface PrometheusQuery extends DataQuery {
  expr: string;
  legendFormat: string;
  range: boolean;
  instant: boolean;
  editorMode: 'code' | 'builder';
}
interface PrometheusAnnotation {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
}

type Drawn<Type extends string, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Type;
  options: Options;
  fieldConfig: {defaults: Omit<FieldConfig, 'custom'> & {custom?: Custom}; overrides: []};
  targets: PrometheusQuery[];
};

export type Chart = Plain<Drawn<'timeseries', Partial<TimeSeriesOptions>, TimeSeriesFieldConfig>>;
export type Number = Plain<Drawn<'stat', Partial<StatOptions>, never>>;
export type Row = Plain<RowPanel>;
export type Annotation = Plain<NonNullable<NonNullable<Dashboard['annotations']>['list']>[number] & PrometheusAnnotation>;
export type Frame = Plain<Omit<Dashboard, 'panels' | 'annotations'>>;
