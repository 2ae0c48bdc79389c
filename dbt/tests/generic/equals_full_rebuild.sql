{#
    Rows by which an incremental model differs from what --full-refresh would build now. `inputs` names what the
    model reads: the test renders the model's own code, and dbt lets a test refer only to what it declares.
#}
{% test equals_full_rebuild(model, inputs) %}
    {%- if execute %}
        {%- set node = graph.nodes.values() | selectattr('relation_name', 'eq', model | string) | first -%}
        with rebuilt as (
            select * from ({{ render(node.raw_code) }}) as full_refresh
        )

        select 'missing' as difference, missing.*
        from (select * from rebuilt except select * from {{ model }}) as missing
        union all
        select 'stale' as difference, stale.*
        from (select * from {{ model }} except select * from rebuilt) as stale
    {%- endif %}
{% endtest %}
