"""A page of vLLM's `/metrics`, with a line that is none."""

PAGE = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_preemptions_total{engine="0",model_name="m"} 1.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1e+03
vllm:prefix_cache_hits_total{engine="0",model_name="m"} NaN
vllm:time_to_first_token_seconds_bucket{le="0.001"} 0.0
garbage line
"""
